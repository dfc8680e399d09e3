# %% [markdown]
"""
From images to a classifier of your own, in the steps of the tutorial.

Take the features of images once, put a new classifier in the place of VGG16's, look at the layers, train,
look at the first four images, predict one. Cells begin with `# %%`, as editors and Jupytext understand them;
as a script: `python docs/tutorial.py`.

With the parameters below it takes a minute on two cores, and fetches the weights of VGG16 once (61 MB).
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
# ## The images
#
# A workspace is a folder with everything that belongs to one project. `prepare` looks at every image, and
# splits them. Run again, all of this finds its work done.

# %%
if not Path(WORKSPACE, "params.yaml").exists():
    pipeline("init", WORKSPACE, "--source", SOURCE)
workspace = Workspace(Path(WORKSPACE))
write_params(workspace.params_file, {f"extract.{key}": value for key, value in EXTRACT.items()})
pipeline("prepare", "--limit", str(LIMIT))

# %% [markdown]
# ## The features
#
# Every image goes once through the network without its classifier. What comes out is kept: 512 channels of
# 7 × 7 positions make 25,088 numbers an image, most of them zeros.

# %%
pipeline("extract")
X, y, paths = load_features(WORKSPACE, "train")
print(f"\nX {X.shape} {X.dtype}, {(X == 0).mean():.0%} zeros; y {y.shape}, {len(set(y))} classes")

# %% [markdown]
# ## A new classifier
#
# Any classifier of scikit-learn can learn from these rows, in a moment. Judge it on `val`: the test images
# are for the very end, `pipeline evaluate --split test`.

# %%
X_val, y_val, _ = load_features(WORKSPACE, "val")
classifier = LogisticRegression(C=1e-3, max_iter=1000).fit(X.astype("float32"), y)
print(f"logistic regression: accuracy {classifier.score(X_val.astype('float32'), y_val):.4f} on val")

# %% [markdown]
# ## The layers
#
# The tutorial's classifier is one linear layer where VGG16 had three. Everything before it stays frozen.

# %%
pipeline("summary")

# %% [markdown]
# ## Training
#
# Only the new layer learns, from the features that are stored. No image is looked at again.

# %%
pipeline("train", "linear", "--set", "epochs=10")
pipeline("evaluate", "linear")

# %% [markdown]
# ## The first four images
#
# As the network sees them, with their labels.

# %%
pipeline("show", "-n", "4")

# %% [markdown]
# ## One image
#
# The first of the validation images, as if it had just come in.

# %%
row = read_manifest(workspace.manifest_file).of_split("val")[0]
image = image_file(row.path, source_root(read_params(workspace.params_file).dataset.source, workspace))
pipeline("predict", "linear", str(image))
print(f"\nits label: {row.label}")
