# %% [markdown]
"""
The first way of `docs/tutorial.md`, step by step, to be changed as you like: what is done is told there.

Cells begin with `# %%`, as editors and Jupytext understand them; as a script: `python docs/tutorial.py`. With
the parameters below it takes a minute on two cores, and fetches the weights of VGG16 once (61 MB).
`SOURCE = "cats-dogs"` and `LIMIT = 500` are the tutorial's own images, a download of 787 MB.
"""

# %%
import shlex
from pathlib import Path

from sklearn.linear_model import LogisticRegression

from pipeline import load_features
from pipeline.cli import cli
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.sources import image_file, source_root
from pipeline.edit_params import write_params
from pipeline.params import read_params
from pipeline.workspace import Workspace

# %% tags=["parameters"]
SOURCE = "digits"  # or the path of a folder that has a folder for each class
LIMIT = 200  # images, as many of each class
WORKSPACE = "tutorial"  # a folder, made where it is missing; everything is written there
EXTRACT: dict[str, object] = {}  # such as {"backbone": "resnet50", "weights": "DEFAULT"}


# %%
def pipeline(*words: str) -> None:
    """Run a command in the workspace, as a shell does."""
    print(f"\n$ pipeline {shlex.join(words)}")
    if cli.main(["--root", WORKSPACE, *words], prog_name="pipeline", standalone_mode=False):
        raise SystemExit(1)


# %% [markdown]
# ## The data set
#
# Run again, all of this finds its work done.

# %%
if not Path(WORKSPACE, "params.yaml").exists():
    pipeline("init", WORKSPACE, "--source", SOURCE)
workspace = Workspace(Path(WORKSPACE))
write_params(workspace.params_file, {f"extract.{key}": value for key, value in EXTRACT.items()})
pipeline("prepare", "--limit", str(LIMIT))

# %% [markdown]
# ## Features
#
# `X` is what is stored: rows of `train` as a matrix, most of it zeros.

# %%
pipeline("extract")
X, y, paths = load_features(WORKSPACE, "train")
print(f"\nX {X.shape} {X.dtype}, {(X == 0).mean():.0%} zeros; y {y.shape}, {len(set(y))} classes")

# %% [markdown]
# ## A new classifier
#
# Any classifier of scikit-learn, in a notebook's own way.

# %%
X_val, y_val, _ = load_features(WORKSPACE, "val")
classifier = LogisticRegression(C=1e-3, max_iter=1000).fit(X.astype("float32"), y)
print(f"logistic regression: accuracy {classifier.score(X_val.astype('float32'), y_val):.4f} on val")

# %% [markdown]
# ## The layers

# %%
pipeline("summary")

# %% [markdown]
# ## Training

# %%
pipeline("train", "linear", "--set", "epochs=10")
pipeline("evaluate", "linear")

# %% [markdown]
# ## The first four images

# %%
pipeline("show", "-n", "4")

# %% [markdown]
# ## One image
#
# The first of `val`, as if it had just come in.

# %%
row = read_manifest(workspace.manifest_file).of_split("val")[0]
image = image_file(row.path, source_root(read_params(workspace.params_file).dataset.source, workspace))
pipeline("predict", "linear", str(image))
print(f"\nits label: {row.label}")
