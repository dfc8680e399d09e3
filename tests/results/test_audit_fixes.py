from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.dataset.corrections import Correction, Corrections, read_corrections, write_corrections
from pipeline.dataset.manifest import ImageRow, write_manifest
from pipeline.errors import ManifestError, ParamsError
from pipeline.results.audit.findings import Audit, LabelFindings, LabelIssue, NearPair, Oddity
from pipeline.results.audit.fixes import AppliedFixes, apply_fixes
from pipeline.results.audit.proposal import write_proposal
from pipeline.workspace import Workspace
from tests.results.audits import image

ODD = '=cmd|"x",\t\n.jpg'
ROWS = [
    image("cat/1.jpg", "cat", "train"),
    image("cat/2.jpg", "cat", "train"),
    image("cat/broken.jpg", "cat", "", sha256="", status="quarantined", reason="empty_file"),
    image("cat/out.jpg", "cat", "", status="excluded", reason="corrections"),
    image("dog/1.jpg", "dog", "val"),
    image("dog/2.jpg", "dog", "test"),
    image(ODD, "'+dog", "train"),
]
ROWS += [replace(ROWS[0], path="cat/copy of 1.jpg")]
SHA256 = {row.path: row.sha256 for row in ROWS}
Apply = Callable[..., AppliedFixes]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "params.yaml").write_text("")
    workspace = Workspace(tmp_path)
    write_manifest(workspace.manifest_file, ROWS)
    return workspace


@pytest.fixture
def applied(workspace: Workspace) -> Apply:
    def apply(text: str, *new_labels: str) -> AppliedFixes:
        (workspace.root / "fixes.csv").write_text(text)
        return apply_fixes(workspace, workspace.root / "fixes.csv", new_labels)

    return apply


def corrections(workspace: Workspace) -> dict[str, tuple[str, str, str]]:
    return {
        sha256: (correction.path, correction.action, correction.label)
        for sha256, correction in read_corrections(workspace.corrections_file).by_sha256.items()
    }


# --- apply


def test_apply__labels(workspace: Workspace, applied: Apply) -> None:
    report = applied("\ufeffpath, label\ncat/2.jpg, dog \n\ndog/1.jpg,cat\n")
    assert report == AppliedFixes(2, 0, 0, 0, 0, corrections=2, changed=True)
    assert corrections(workspace) == {
        SHA256["cat/2.jpg"]: ("cat/2.jpg", "relabel", "dog"),
        SHA256["dog/1.jpg"]: ("dog/1.jpg", "relabel", "cat"),
    }


def test_apply__actions(workspace: Workspace, applied: Apply) -> None:
    applied("path,action\ncat/2.jpg,exclude\ndog/2.jpg,exclude\n")
    report = applied(
        "action,label,path,why\nrelabel,dog,cat/1.jpg,\nkeep,dog,dog/1.jpg,looked at\nexclude,,cat/2.jpg,\n"
        "restore,,dog/2.jpg,\n,dog,cat/out.jpg,undecided\n"
    )
    assert report == AppliedFixes(1, 1, 1, 1, 1, corrections=3, changed=True)
    assert corrections(workspace) == {
        SHA256["cat/1.jpg"]: ("cat/1.jpg", "relabel", "dog"),
        SHA256["cat/2.jpg"]: ("cat/2.jpg", "exclude", ""),
        SHA256["dog/1.jpg"]: ("dog/1.jpg", "relabel", "dog"),
    }


def test_apply__again_changes_nothing(workspace: Workspace, applied: Apply) -> None:
    text = "path,label\ncat/2.jpg,dog\n"
    assert applied(text).changed
    before = workspace.corrections_file.stat().st_mtime_ns
    assert not applied(text).changed
    assert workspace.corrections_file.stat().st_mtime_ns == before


def test_apply__nothing_decided_writes_no_file(workspace: Workspace, applied: Apply) -> None:
    assert applied("path,action\ncat/2.jpg,\ncat/1.jpg,restore\n") == AppliedFixes(
        0, 0, 0, 1, 1, 0, changed=False
    )
    assert not workspace.corrections_file.exists()


def test_apply__merges_with_what_was_corrected(workspace: Workspace, applied: Apply) -> None:
    gone = Correction("cat/gone.jpg", "f" * 64, "exclude", "")
    old = Correction("cat/2.jpg", SHA256["cat/2.jpg"], "exclude", "")
    write_corrections(workspace.corrections_file, Corrections({c.sha256: c for c in (gone, old)}))
    applied("path,label\ncat/2.jpg,dog\n")
    assert corrections(workspace) == {
        "f" * 64: ("cat/gone.jpg", "exclude", ""),
        SHA256["cat/2.jpg"]: ("cat/2.jpg", "relabel", "dog"),
    }
    assert applied("path,action\ncat/gone.jpg,restore\n").corrections == 1


def test_apply__new_labels_have_to_be_named(workspace: Workspace, applied: Apply) -> None:
    with pytest.raises(ParamsError, match=r"line 2: no image has the label 'owl'.*`--new-label`"):
        applied("path,label\ncat/2.jpg,owl\n")
    assert applied("path,label\ncat/2.jpg,owl\n", "owl").relabelled == 1
    assert corrections(workspace)[SHA256["cat/2.jpg"]][2] == "owl"


def test_apply__copies_may_agree(workspace: Workspace, applied: Apply) -> None:
    assert applied("path,label\ncat/1.jpg,dog\ncat/copy of 1.jpg,dog\n").corrections == 1
    with pytest.raises(ParamsError) as caught:
        applied("path,action\ncat/1.jpg,exclude\n\ncat/copy of 1.jpg,keep\n")
    assert str(caught.value) == (
        f"{workspace.root / 'fixes.csv'}, line 4: the image 'cat/copy of 1.jpg' is dealt with otherwise in "
        f"line 2, there as 'cat/1.jpg'."
    )


def test_apply__kept_copies_of_two_labels_do_not_agree(workspace: Workspace, applied: Apply) -> None:
    conflict = [
        replace(ROWS[0], split="", status="conflict", reason="two_labels"),
        replace(ROWS[0], path="dog/x.jpg", label="dog", split="", status="conflict", reason="two_labels"),
    ]
    write_manifest(workspace.manifest_file, conflict)
    with pytest.raises(ParamsError, match="is dealt with otherwise in line 2"):
        applied("path,action\ncat/1.jpg,keep\ndog/x.jpg,keep\n")
    assert applied("path,action\ndog/x.jpg,keep\n").kept == 1
    assert corrections(workspace)[SHA256["cat/1.jpg"]] == ("dog/x.jpg", "relabel", "dog")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: no column 'path'; expected a header such as path,label"),
        ("path\ncat/1.jpg\n", "line 1: neither a column 'label' nor a column 'action'"),
        ("path,lable\n", "line 1: unknown column 'lable'"),
        ("path,label,label\n", "line 1: a column stands there twice"),
        ("path,label\ncat/1.jpg\n", "line 2: expected 2 fields, found 1"),
        (
            "path,label\ncat/3.jpg,dog\n",
            "line 2: no image 'cat/3.jpg' in data/manifest.csv. Did you mean 'cat/",
        ),
        ("path,label\n\x1b[2J,dog\n", "line 2: no image '\\x1b[2J' in data/manifest.csv."),
        ("path,label\ncat/1.jpg,dgo\n", "line 2: no image has the label 'dgo'."),
        ("path,label\ncat/1.jpg,dgo\n", " Did you mean 'dog'?"),
        ("path,label\ncat/1.jpg,\n", "line 2: no label. Write one, or the action exclude or keep."),
        (
            "path,action\ncat/1.jpg,delete\n",
            "line 2: action 'delete': expected relabel, exclude, keep, restore",
        ),
        ("path,action\ncat/1.jpg,relabel\n", "line 2: no label."),
        ("path,action\ncat/broken.jpg,exclude\n", "line 2: 'cat/broken.jpg' could not be read"),
        ("path,action\ncat/gone.jpg,restore\n", "line 2: no image 'cat/gone.jpg'"),
        ('path,label\n"cat', "line 2: unexpected end of data."),
    ],
)
def test_apply__a_table_with_a_fault_changes_nothing(
    workspace: Workspace, applied: Apply, text: str, words: str
) -> None:
    applied("path,action\ndog/2.jpg,exclude\n")
    before = workspace.corrections_file.read_bytes()
    with pytest.raises(ParamsError) as caught:
        applied(text)
    message = str(caught.value)
    assert message.startswith(f"{workspace.root / 'fixes.csv'}, line ")
    assert words in message
    assert "\n" not in message
    assert not message.endswith("?.")
    assert workspace.corrections_file.read_bytes() == before


def test_apply__files_that_cannot_be_read(workspace: Workspace, applied: Apply) -> None:
    with pytest.raises(ParamsError, match=r"nothing\.csv: cannot be read \(No such file"):
        apply_fixes(workspace, workspace.root / "nothing.csv")
    (workspace.root / "latin.csv").write_bytes(b"path,label\n\xe9,cat\n")
    with pytest.raises(ParamsError, match="not UTF-8 at byte 11"):
        apply_fixes(workspace, workspace.root / "latin.csv")
    workspace.manifest_file.unlink()
    with pytest.raises(ManifestError, match="pipeline prepare"):
        applied("path,label\n")


# --- propose


def issue(row: ImageRow, suggested: str, *, confident: bool) -> LabelIssue:
    return LabelIssue(row.path, row.split, row.label, suggested, 0.125, confident)


AUDIT = Audit(
    images=6,
    labels=LabelFindings(
        rows=4,
        not_compared=0,
        reviewed=0,
        accuracy=0.5,
        estimated=2,
        issues=(
            issue(ROWS[6], "cat", confident=True),
            issue(ROWS[1], "'+dog", confident=False),
            issue(ROWS[5], "cat", confident=True),
        ),
        test=None,
    ),
    exact=(),
    near=(
        NearPair(("cat/1.jpg", "dog/1.jpg"), ("train", "val"), 0.9876),
        NearPair(("dog/2.jpg", "dog/1.jpg"), ("test", "val"), 0.75),
        NearPair(("cat/1.jpg", "cat/2.jpg"), ("train", "train"), 0.9),
    ),
    outliers=(Oddity("cat/2.jpg", "train", 7.5),),
    tiny=(),
    dark=(Oddity("cat/2.jpg", "train", 12),),
    blurred=(),
    unread=(),
)


def test_proposal__decides_only_what_is_safe(tmp_path: Path) -> None:
    write_proposal(tmp_path / "fixes.csv", AUDIT, ROWS)
    lines = list(csv.reader(io.StringIO((tmp_path / "fixes.csv").read_text(), newline="")))
    assert lines == [
        ["path", "label", "action", "was", "why"],
        ["cat/1.jpg", "", "exclude", "cat", "like dog/1.jpg in val (0.99)"],
        ["dog/1.jpg", "", "exclude", "dog", "like dog/2.jpg in test (0.75)"],
        [f"'{ODD}", "cat", "relabel", "''+dog", "label quality 0.12 in train"],
        ["cat/2.jpg", "''+dog", "", "cat", "label quality 0.12 in train; outlier; dark"],
        ["dog/2.jpg", "cat", "", "dog", "label quality 0.12 in test"],
    ]


def test_proposal__can_be_applied_as_it_is(workspace: Workspace) -> None:
    write_proposal(workspace.audit_fixes_file, AUDIT, ROWS)
    report = apply_fixes(workspace, workspace.audit_fixes_file)
    assert report == AppliedFixes(1, 2, 0, 0, 2, corrections=3, changed=True)
    assert corrections(workspace) == {
        SHA256[ODD]: (ODD, "relabel", "cat"),
        SHA256["cat/1.jpg"]: ("cat/1.jpg", "exclude", ""),
        SHA256["dog/1.jpg"]: ("dog/1.jpg", "exclude", ""),
    }


def test_proposal__a_label_like_a_formula_comes_back_as_it_was(workspace: Workspace) -> None:
    write_proposal(workspace.audit_fixes_file, AUDIT, ROWS)
    text = workspace.audit_fixes_file.read_text()
    decided = text.replace("cat/2.jpg,''+dog,,", "cat/2.jpg,''+dog,relabel,")
    assert decided != text
    workspace.audit_fixes_file.write_text(decided)
    apply_fixes(workspace, workspace.audit_fixes_file)
    assert corrections(workspace)[SHA256["cat/2.jpg"]] == ("cat/2.jpg", "relabel", "'+dog")
