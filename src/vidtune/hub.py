"""The Hugging Face Hub: finding a checkpoint, the right to write, and publishing in one commit."""

import json
import logging
import re
import shlex
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vidtune.card import without_secrets
from vidtune.errors import InputError, PublishError
from vidtune.models.trust import check_code, check_weights, pickled_weights

logger = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")

FILES_OF_VALUES = re.compile(r"(?!pytorch_model)[^/]+\.(json|txt|model|jinja)")
FILES_OF_WEIGHTS = re.compile(r"(adapter_)?model(-\d+-of-\d+)?\.safetensors")
"""Files of a checkpoint that are fetched: at its top, and of its weights no copies in other precisions."""


def check_access(repo_id: str, private: bool | None = None, repo_type: str = "model") -> str:
    """Make sure, before the work, that its result can be published; create the repository if missing.

    The token comes from the environment (`HF_TOKEN`) or from `hf auth login`, never from a config, which is
    saved and published.

    Args:
        repo_id: `user/name`, or `name` for a repository of the token's own user.
        private: Whether a repository created here is private; None is the Hub's default.
        repo_type: `model`, `dataset` or `space`.

    Returns:
        The full `user/name`.

    Raises:
        InputError: If the id is malformed, the token missing, refused or without the right to write, or the
            Hub out of reach.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    is_space, token = repo_type == "space", get_token()
    field = "push_to_hub" if is_space else f"hub_{repo_type}_id"
    if token is None:
        raise InputError(f"{field}: no token to publish {repo_id!r}: run `hf auth login` or set HF_TOKEN")
    api = HfApi(token=token)
    try:
        sdk = "gradio" if is_space else None
        full_id: str = api.create_repo(
            repo_id, private=private, repo_type=repo_type, exist_ok=True, space_sdk=sdk
        ).repo_id
        # `exist_ok` also passes on a repository that the token can only read.
        api.auth_check(full_id, repo_type=repo_type, write=True)
    except HFValidationError as error:
        raise InputError(f"{field}: {repo_id!r} is not `user/name` ({_reason(error)}): mend it") from error
    except HfHubHTTPError as error:
        remedy = {
            401: "the token is refused: run `hf auth login` or set HF_TOKEN to a valid one",
            403: "the token may not write there: take a namespace of yours or a token with write access",
        }.get(error.response.status_code, "try again later, or leave out push_to_hub")
        raise InputError(f"{field}: cannot publish {repo_id!r} ({_reason(error)}): {remedy}") from error
    except Exception as error:  # of the transport, whose library changed between versions of the client
        raise InputError(
            f"{field}: cannot reach {api.endpoint} to publish {repo_id!r} ({_reason(error)}):"
            " check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or leave out push_to_hub"
        ) from error
    return full_id


def locate(
    name: str, field: str = "model_name_or_path", revision: str | None = None, trust_remote_code: bool = False
) -> str:
    """Find a checkpoint: the folder that holds its files, of one commit, fetched from the Hub where that is needed.

    What is found can be loaded by itself: its weights are no pickle, and it needs no code but what may be run.

    Args:
        name: Folder or Hub id.
        field: What errors call it.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether code that lies in the checkpoint may be run.

    Raises:
        InputError: If there is no such checkpoint, it isn't of the revision asked for, or is not to be trusted.
    """
    if (Path(name) / "probe.json").is_file():
        raise InputError(
            f"{field}: {name}: is a probe, which predict.py takes, and whose scores report.json of its features has; "
            "give a model"
        )
    if (Path(name) / "features.json").is_file():
        raise InputError(
            f"{field}: {name}: holds the features of videos, no model; give the model that made them, or predict.py a "
            f"probe of them, such as {Path(name, 'probes', 'svm')}"
        )
    if Path(name).is_dir():
        _check_no_revision(name, revision)
        names = [path.name for path in Path(name).iterdir() if path.is_file()]
        check_weights(names, name, field)
        check_code(Path(name), name, field, trust_remote_code)
        return name
    commit, names, cached = _look_up(name, field, revision)
    check_weights(names, name, field, revision)
    values = [file for file in names if FILES_OF_VALUES.fullmatch(file)]
    folder = cached or _fetch(name, field, commit, values)
    check_code(folder, name, field, trust_remote_code)
    if cached is None:
        wanted = [file for file in names if FILES_OF_WEIGHTS.fullmatch(file)]
        wanted += [file for file in names if trust_remote_code and file.endswith(".py")]
        _fetch(name, field, commit, values + wanted)
    return str(folder)


def locate_pickles(name: str, field: str, revision: str | None = None) -> Path:
    """Find a checkpoint whose weights may be pickles, to be converted; the arguments are those of `locate`."""
    if Path(name).is_dir():
        _check_no_revision(name, revision)
        return Path(name)
    commit, names, cached = _look_up(name, field, revision)
    wanted = [file for file in names if FILES_OF_VALUES.fullmatch(file)] + pickled_weights(names)
    return cached or _fetch(name, field, commit, wanted)


def commit_of(name: str, field: str = "model_name_or_path", revision: str | None = None) -> str | None:
    """Tell which commit of the Hub a checkpoint is at now, to be the `revision` of all that is loaded of it.

    Args:
        name: Folder or Hub id.
        field: What errors call it.
        revision: Branch, tag or commit.

    Returns:
        The commit; None for a folder, which has none.

    Raises:
        InputError: If there is no such checkpoint or revision.
    """
    if Path(name).exists():
        _check_no_revision(name, revision)
        return None
    return _look_up(name, field, revision)[0]


def _check_no_revision(name: str, revision: str | None) -> None:
    if revision:
        raise InputError(f"model_revision: {revision}: {name} is here, and not on the Hub; leave it out")


def _look_up(name: str, field: str, revision: str | None) -> tuple[str, list[str], Path | None]:
    """Ask the Hub for the commit of a revision and its files; or the cache, where the Hub can't be reached.

    transformers would try an unreachable Hub for a minute, and again for each file, even if the cache has them all.

    Returns:
        The commit, the names of its files, and the folder of the cache if that is all there is.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    if Path(name).exists():
        raise InputError(f"{field}: {name}: is a file; give the folder that holds config.json and the weights")
    cached = None
    try:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        found = HfApi().model_info(name, revision=revision, timeout=10)
    except HFValidationError:
        raise InputError(f"{field}: {name}: does not exist; give a folder or a Hub id (user/name)") from None
    except RevisionNotFoundError:
        raise InputError(
            f"model_revision: {revision}: is no branch, tag or commit of {name}; give another, or leave it out"
        ) from None
    except RepositoryNotFoundError:
        raise InputError(
            f"{field}: {name}: is no folder here and not on the Hub, or private; check the spelling, "
            "or run `hf auth login`"
        ) from None
    except Exception as error:  # whatever the connection raises
        if isinstance(cached, str):
            folder = Path(cached).parent
            return folder.name, sorted(path.name for path in folder.iterdir()), folder
        if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
            raise InputError(
                f"{field}: {name}: the Hub refuses the token ({_reason(error)}); run `hf auth login`, or set HF_TOKEN "
                "to one that may read it"
            ) from None
        raise InputError(
            f"{field}: {name}: is no folder here, and the Hub can't be reached ({_reason(error)}); "
            f"offline, copy it here where there is a network (hf download {name} --local-dir DIR), and --{field} DIR"
        ) from None
    if COMMIT.fullmatch(revision or "") and found.sha != revision:
        raise InputError(
            f"model_revision: {revision}: the Hub answers with another commit of {name}, {found.sha}; don't use it, "
            "or give that commit if it is the one you mean"
        )
    return str(found.sha), [file.rfilename for file in found.siblings or []], None


def _fetch(name: str, field: str, commit: str, files: Sequence[str]) -> Path:
    """Fetch files of one commit into the cache, and make sure that it is that commit that was sent."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=commit, allow_patterns=list(files)))
    except Exception as error:  # whatever the client and the connection raise
        raise InputError(f"{field}: {name}: can't be fetched ({_reason(error)}); try again later") from None
    missing = [file for file in files if not (folder / file).is_file()]
    if missing or folder.name != commit:  # the client files what is sent under the commit that the server names
        sent = missing[0] if missing else "files"
        raise InputError(f"model_revision: {commit}: the Hub sent {sent} of {name} at another commit; don't use it")
    return folder


def publish(
    folder: Path,
    repo_id: str,
    files: Sequence[str],
    message: str,
    waits: Sequence[float] = (2, 8, 30),
    repo_type: str = "model",
    contents: Mapping[str, bytes] | None = None,
) -> str:
    """Upload files of a folder in one commit, trying again where a failure may pass.

    A commit of which only the answer got lost is not made twice: the client leaves out files that the
    repository holds already.

    Args:
        folder: Where the files are.
        repo_id: The full `user/name`, as `check_access` returned it.
        files: Names relative to `folder`; nothing else is uploaded.
        message: Title of the commit.
        waits: Seconds before each further attempt.
        repo_type: `model`, `dataset` or `space`.
        contents: What is published of some files in place of what they hold here.

    Returns:
        The URL of the commit.

    Raises:
        PublishError: After the last attempt or a final refusal; it names the folder and the command that
            publishes it.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    folder, pauses, contents = folder.resolve(), iter(waits), contents or {}
    while True:
        try:
            additions = [CommitOperationAdd(name, contents.get(name, folder / name)) for name in files]
            commit = HfApi().create_commit(repo_id, additions, commit_message=message, repo_type=repo_type)
            return str(commit.commit_url)
        except Exception as error:  # whatever failed, the work is done and saved: say where
            pause = next(pauses, None)
            if pause is None or _is_final(error):
                include = [word for name in files if name not in contents for word in ("--include", name)]
                kind = [] if repo_type == "model" else ["--repo-type", repo_type]
                command = shlex.join(["hf", "upload", repo_id, str(folder), ".", *kind, *include])
                raise PublishError(
                    f"publishing to {repo_id} failed ({_reason(error)}); everything is saved in {folder},"
                    f" publish it with: {command}"
                ) from error
            logger.warning("Publishing to %s failed (%s), again in %g s", repo_id, _reason(error), pause)
            time.sleep(pause)


def publish_run(
    output_dir: Path,
    repo_id: str,
    report: Mapping[str, Any],
    message: str,
    of_videos: bool = False,
    code: bool = False,
) -> str:
    """Publish a run that is written to its folder.

    Args:
        output_dir: The folder.
        repo_id: The full `user/name`, as `check_access` returned it.
        report: What report.json says.
        message: Title of the commit.
        of_videos: Whether what tells of single videos is published, too: predictions, and the paths of those that
            failed.
        code: Whether Python files are, without which the model loads nowhere.

    Returns:
        The URL of the commit.

    Raises:
        PublishError: As of `publish`.
    """
    from vidtune.evaluation.report import to_json, without_paths
    from vidtune.training.checkpoints import RUN_FILES

    patterns, contents = {*RUN_FILES, *(["*.py"] if code else [])}, {}
    if not of_videos:
        patterns.remove("predictions.parquet")
        contents["report.json"] = without_secrets(to_json(without_paths(report))).encode()
    files = sorted({path.relative_to(output_dir).as_posix() for name in patterns for path in output_dir.glob(name)})
    return publish(output_dir, repo_id, files, message, contents=contents)


def _cause(error: BaseException) -> BaseException:
    """Return what the client's `RuntimeError` ("Error while uploading ...") stands for."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _reason(error: BaseException) -> str:
    """Say in one line why a call of the client failed."""
    error = _cause(error)
    response = getattr(error, "response", None)
    if response is None:
        text = str(error) or type(error).__name__
    else:
        text = f"{response.status_code} {getattr(error, 'server_message', None) or response.reason_phrase}"
    return textwrap.shorten(without_secrets(text), 300)  # a gateway answers with a whole page


def _is_final(error: BaseException) -> bool:
    """Tell whether trying again is pointless."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    error = _cause(error)
    if isinstance(error, HfHubHTTPError):
        status: int = error.response.status_code
        return 400 <= status < 500 and status not in (408, 409, 429)  # timeout, concurrent commit, rate limit
    # A gateway's HTML page in place of the Hub's JSON is a ValueError too, but a passing one.
    return isinstance(error, ValueError | OfflineModeIsEnabled) and not isinstance(error, json.JSONDecodeError)
