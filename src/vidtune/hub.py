"""The Hugging Face Hub: finding a checkpoint, the right to write, and publishing in one commit."""

import json
import logging
import shlex
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

from vidtune.card import without_secrets
from vidtune.errors import InputError, PublishError, first_line

logger = logging.getLogger(__name__)


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


def locate(name: str, field: str = "model_name_or_path", revision: str | None = None) -> str:
    """Find a checkpoint: a folder, the id of one on a Hub that answers, or the folder of the cache that holds it.

    transformers tries an unreachable Hub for a minute, and again for each file, even if the cache has them all.

    Args:
        name: Folder or Hub id.
        field: What errors call it.
        revision: Branch, tag or commit on the Hub.

    Returns:
        What transformers can load from.

    Raises:
        InputError: If it is none of these.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    if (Path(name) / "probe.json").is_file():
        raise InputError(
            f"{field}: {name}: is a probe, which predict.py takes, and whose scores report.json of its features has; "
            "give a model"
        )
    if Path(name).is_dir():
        return name
    if Path(name).exists():
        raise InputError(f"{field}: {name}: is a file; give the folder that holds config.json and the weights")
    cached = None
    try:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        HfApi().model_info(name, revision=revision, timeout=10)
        return name
    except HFValidationError:
        raise InputError(f"{field}: {name}: does not exist; give a folder or a Hub id (user/name)") from None
    except RevisionNotFoundError:
        raise InputError(f"{field}: {name}: has no branch, tag or commit {revision}") from None
    except RepositoryNotFoundError:
        raise InputError(
            f"{field}: {name}: is no folder here and not on the Hub, or private; check the spelling, "
            "or run `hf auth login`"
        ) from None
    except Exception as error:  # whatever the connection raises
        if isinstance(cached, str):
            return str(Path(cached).parent)
        raise InputError(
            f"{field}: {name}: is no folder here, and the Hub can't be reached ({first_line(error)}); "
            f"offline, copy it here where there is a network (hf download {name} --local-dir DIR), and --{field} DIR"
        ) from None


def publish(
    folder: Path,
    repo_id: str,
    files: Sequence[str],
    message: str,
    waits: Sequence[float] = (2, 8, 30),
    repo_type: str = "model",
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

    Returns:
        The URL of the commit.

    Raises:
        PublishError: After the last attempt or a final refusal; it names the folder and the command that
            publishes it.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    folder, pauses = folder.resolve(), iter(waits)
    while True:
        try:
            additions = [CommitOperationAdd(name, folder / name) for name in files]
            commit = HfApi().create_commit(repo_id, additions, commit_message=message, repo_type=repo_type)
            return str(commit.commit_url)
        except Exception as error:  # whatever failed, the work is done and saved: say where
            pause = next(pauses, None)
            if pause is None or _is_final(error):
                include = [word for name in files for word in ("--include", name)]
                kind = [] if repo_type == "model" else ["--repo-type", repo_type]
                command = shlex.join(["hf", "upload", repo_id, str(folder), ".", *kind, *include])
                raise PublishError(
                    f"publishing to {repo_id} failed ({_reason(error)}); everything is saved in {folder},"
                    f" publish it with: {command}"
                ) from error
            logger.warning("Publishing to %s failed (%s), again in %g s", repo_id, _reason(error), pause)
            time.sleep(pause)


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
