"""Where a model lies: a folder, or a name on the Hugging Face hub that becomes one."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evals.errors import ReadableError

_HUB_NAME = re.compile(r"(?P<name>[\w-][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_SMALL_FILES = ("*.json", "tokenizer.model", "vocab.*", "merges.txt", "chat_template.*")
# Folders hold other forms of the model, "consolidated" the same weights once more under other names.
_NOT_WANTED = ["*/*", "consolidated*"]
_INDEX = "model.safetensors.index.json"


class ModelError(ReadableError, FileNotFoundError):
    """A model is neither a folder nor to be had from the hub, or lacks a part; the message names it."""


def model_folder(model: str | Path, weights: bool = True) -> Path:
    """The folder of a model: an existing one as it is, else that of `owner/name` or `owner/name@revision` on the hub.

    What the hub gives (configuration, tokenizer, and with `weights` the safetensors) is kept in its cache, so the
    second call on a node costs nothing. Raises ModelError.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if not (named := hub_name(model)):
        raise ModelError(
            f"{model} is neither a folder nor a name on the Hugging Face hub (owner/name, or with @revision)"
        )
    return _from_hub(*named, weights)


def without_scikit_learn() -> None:
    """Keep transformers from importing scikit-learn, scipy and pandas, which cost a process two seconds.

    They are for a kind of assisted generation that nothing here asks for. Call it before anything that imports
    transformers' models, which vLLM and DeepSpeed do.
    """
    import transformers.utils

    transformers.utils.is_sklearn_available = lambda: False


@contextmanager
def without(*modules: str) -> Iterator[None]:
    """Within, these cannot be imported, as if they were not installed; what is imported already stays.

    For what others import where it is there, which costs a process seconds, and nothing here asks of them.
    """
    blocked = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(blocked))  # type: ignore[arg-type]  # where None stands, an import fails
    try:
        yield
    finally:
        for name in blocked:
            del sys.modules[name]


def hub_name(model: str | Path) -> tuple[str, str | None] | None:
    """Name and revision where `model` has the form of a hub name, whether or not a folder is called the same."""
    form = _HUB_NAME.fullmatch(str(model))
    return (form["name"], form["revision"]) if form else None


def tensor_files(folder: Path) -> dict[str, Path]:
    """The file of every tensor by its name: by the index of a checkpoint in several shards, else from every file.

    Raises ModelError where there is none, or where a shard that the index names is missing.
    """
    from safetensors import safe_open

    index = folder / _INDEX
    if index.exists() and not (folder / "model.safetensors").exists():  # the order in which transformers looks
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if missing := sorted({file for file in shards.values() if not (folder / file).exists()}):
            raise ModelError(f"{folder} lacks {', '.join(missing)}, which {_INDEX} names")
        return {name: folder / file for name, file in shards.items()}
    where: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            where |= dict.fromkeys(tensors.keys(), file)
    if not where:
        raise ModelError(f"{folder} holds no weights as safetensors (*.safetensors), the one form that is read")
    return where


def _from_hub(name: str, revision: str | None, weights: bool) -> Path:
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted = [*_SMALL_FILES, "*.safetensors"] if weights else list(_SMALL_FILES)
    model = f"{name}@{revision}" if revision else name

    def download(cached: bool) -> Path:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                local_files_only=cached,
                allow_patterns=wanted,
                ignore_patterns=_NOT_WANTED,
            )
        )

    try:
        try:
            folder = download(cached=False)
        except (OfflineModeIsEnabled, httpx.TransportError):  # a commit is asked for by its files, cached or not
            folder = download(cached=True)
    except GatedRepoError as error:
        raise ModelError(
            f"{model}: its owner lets only some accounts download it. Ask for access on its page, then log in on "
            "every node with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{model}: the Hugging Face hub has {name}, but no revision {revision}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"{model} is neither a folder (seen from {Path.cwd()}) nor a model on the Hugging Face hub; a private one "
            "needs `hf auth login`"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError) as error:
        raise ModelError(
            f"{model} is no folder (seen from {Path.cwd()}), is not in the hub's cache of this node, and the Hugging "
            f"Face hub cannot be reached. Download it where there is a network (`hf download {name}"
            f"{f' --revision {revision}' if revision else ''}`), or give a folder"
        ) from error
    needed = ["config.json", "*.safetensors"] if weights else ["config.json"]
    if missing := [pattern for pattern in needed if not any(folder.glob(pattern))]:
        raise ModelError(f"{model}: what the hub gave ({folder}) lacks {' and '.join(missing)}")
    return folder
