r"""Serve a page to try a model: drop a video, see the frames that the model reads, its labels and a timeline.

    python recipes/app.py --model outputs/mine

The same as a Space of the Hub, of a model that is there:

    python recipes/app.py --model user/mine --push_to_hub user/try-mine
"""

import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vidtune.arguments import parse
from vidtune.errors import InputError, exit_code
from vidtune.hub import check_access, commit_of, publish
from vidtune.options import AppArguments

SECTIONS = {"app": AppArguments}


def main(argv: list[str] | None = None) -> None:
    """Serve the page until Ctrl-C, or publish it."""
    options: AppArguments = parse(argv, __doc__, SECTIONS, training=False).app
    if find_spec("gradio") is None:
        raise InputError("model: its page needs a package that is missing: pip install gradio")
    page = {
        "revision": options.model_revision,
        "trust_remote_code": options.trust_remote_code,
        "window_seconds": options.window_seconds,
        "stride_seconds": options.stride_seconds,
        "max_upload_mb": options.max_upload_mb,
    }
    if options.push_to_hub:
        print("published:", publish_space(options, page))
        return

    from transformers.utils import logging

    from vidtune.app import launch

    logging.disable_progress_bar()
    print("Ctrl-C ends it")
    launch(options.model, **page, server_port=options.server_port)


def publish_space(options: AppArguments, page: dict[str, Any]) -> str:
    """Publish the page as a Space, once the model is known to load from the Hub; the URL of its commit."""
    from huggingface_hub import HfApi

    from vidtune.evaluation.classifier import load_predictor
    from vidtune.space import write_space

    model, revision = str(options.model), options.model_revision
    if Path(model).exists():
        raise InputError(
            f"model: {model}: is here, and a Space reads its model from the Hub; publish it first: "
            f"hf upload user/name {model}, and give --model user/name"
        )
    page["revision"] = commit_of(model, "model", revision)  # the Space shows what was tried here
    repo_id = check_access(str(options.push_to_hub), options.hub_private_repo, repo_type="space")
    load_predictor(model, revision=page["revision"], trust_remote_code=options.trust_remote_code)
    folder = Path(tempfile.mkdtemp(prefix="vidtune-space-"))  # stays where publishing fails
    files = write_space(folder, model, **page)
    url = publish(folder, repo_id, files, f"Page to try {model}", repo_type="space")
    shutil.rmtree(folder)
    if HfApi().model_info(model).private:
        print(f"{model} is private: give the Space a secret HF_TOKEN that may read it, in its settings")
    return url


if __name__ == "__main__":
    sys.exit(exit_code(main))
