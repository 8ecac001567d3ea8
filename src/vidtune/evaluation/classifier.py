"""A trained model and all that its predictions depend on: clip, normalisation, temperature, labels."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel

from vidtune.data.clips import ClipFormat
from vidtune.data.transforms import crop_views
from vidtune.errors import InputError
from vidtune.models.exported import WEIGHTS_ENDING, exported_file, load_exported
from vidtune.models.loading import CLIP_RECORD, clip_settings, load_trained
from vidtune.models.processors import normalisation, saved_processors

PROBE_RECORD = "probe.json"
"""The file by which a folder is known to hold a probe of `extract_features.py`."""


class Prediction(NamedTuple):
    """What a model says of a clip."""

    label: str
    """The most probable one."""
    probabilities: dict[str, float]
    """Of each label, in the order of the model's; of all labels together 1, but where a clip may have several."""
    logits: list[float]
    """Of each label, before temperature and softmax."""


class Classifier:
    """A model in evaluation mode, from uint8 clips to logits and from logits to probabilities.

    Args:
        forward: Takes normalised clips, float `(N, T, C, H, W)` on the device; returns logits `(N, num_labels)`, or
            `(N, 1, num_labels)` as VideoPrism does.
        config: The model's configuration: labels, type of problem, and vidtune's record with the temperature.
        clip: What a clip is.
        image_mean: Mean that is subtracted, of values in [0, 1], by channel.
        image_std: Standard deviation that is divided by, by channel.
        device: Where `forward` computes.
        fingerprint: Digest of the weights: two classifiers with other weights have another one.

    Attributes:
        labels: Names, in the order of the logits.
        clip: What a clip is.
        image_mean: What is subtracted, of values in [0, 1], by channel.
        image_std: What is divided by.
        temperature: What logits are divided by, > 0; 1 where none was fitted.
        multi_label: Whether a video may have several labels, each with a probability of its own.
        device: Where the model computes.
        fingerprint: Digest of the weights.
    """

    def __init__(
        self,
        forward: Callable[[torch.Tensor], torch.Tensor],
        config: PretrainedConfig,
        clip: ClipFormat,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        device: torch.device,
        fingerprint: str = "",
    ) -> None:
        self._forward, self.clip, self.device, self.fingerprint = forward, clip, device, fingerprint
        self.labels = [str(config.id2label[index]) for index in range(len(config.id2label))]
        self.multi_label = config.problem_type == "multi_label_classification"
        self.temperature = float(getattr(config, CLIP_RECORD, {}).get("temperature") or 1.0)
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        self._mean, self._std = (
            255 * torch.tensor(values, device=device).view(-1, 1, 1) for values in (image_mean, image_std)
        )

    @torch.inference_mode()
    def logits(self, views: torch.Tensor) -> torch.Tensor:
        """Run the model on clips.

        Args:
            views: uint8 `(N, T, C, H, W)`, on any device.

        Returns:
            float32 `(N, num_labels)`, on the model's device.
        """
        pixels = views.to(self.device, non_blocking=True).sub(self._mean).div(self._std)
        return self._forward(pixels).float().flatten(1)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Average the probabilities of a video's views, then calibrate the average.

        Source: Rahaman and Thiery 2021, Uncertainty quantification and deep ensembles (pool, then calibrate): so the
        temperature changes how sure the prediction is, never which it is.

        Args:
            logits: `(N, num_labels)`, of all views of one video.

        Returns:
            float64 `(num_labels,)`, in [0, 1]; the sum is 1, but where a video may have several labels.
        """
        if self.multi_label:
            return (logits.double().sigmoid().mean(0).logit() / self.temperature).sigmoid()
        return (logits.double().log_softmax(-1).logsumexp(0) / self.temperature).softmax(-1)


def load_predictor(
    name: str,
    *,
    revision: str | None = None,
    device: str | None = None,
    sampling: str | None = None,
    fps: float | None = None,
    frame_stride: int | None = None,
    trust_remote_code: bool = False,
) -> Classifier:
    """Load a model to predict with.

    Args:
        name: Folder of a run (a plain model or an adapter), Hub id, an exported model: its file or folder, with
            configuration and processor beside it; or the folder of a probe.
        revision: Branch, tag or commit on the Hub.
        device: As torch names it; None: the first GPU, else the CPU. An exported model computes on the CPU.
        sampling: As of `clip_settings`, for a model that doesn't say itself.
        fps: Likewise.
        frame_stride: Likewise.
        trust_remote_code: Whether code that comes with the model may be run: of a checkpoint, or of a `.pt2` file.

    Raises:
        InputError: If there is no such model, it has no processor, has not been fine-tuned, or is not for videos.
    """
    if (Path(name) / PROBE_RECORD).is_file():
        from vidtune.evaluation.saved_probe import load_probe  # which needs a Classifier

        return load_probe(
            name,
            device=device,
            sampling=sampling,
            fps=fps,
            frame_stride=frame_stride,
            trust_remote_code=trust_remote_code,
        )
    if file := exported_file(name):
        model = load_exported(file, trust_remote_code)
        # Of a copy: it forgets the temperature
        clip = ClipFormat(**clip_settings(deepcopy(model.config), sampling, fps, frame_stride))
        processors = saved_processors(str(file.parent), field="model", trust_remote_code=trust_remote_code)
        normal = normalisation(processors[0])
        return Classifier(model, model.config, clip, *normal, torch.device("cpu"), file_digest(file))
    network, settings, mean, std = load_trained(name, revision, sampling, fps, frame_stride, trust_remote_code)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    fingerprint = weights_digest(network)
    network.to(chosen).eval()

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = network(**{network.main_input_name: pixels}).logits
        return logits

    return Classifier(forward, network.config, ClipFormat(**settings), mean, std, chosen, fingerprint)


def file_digest(file: Path) -> str:
    """Digest an exported model, and the weights that stand beside it if it has them there."""
    digest = sha256(file.read_bytes())
    weights = file.with_name(file.name + WEIGHTS_ENDING)
    if weights.exists():
        digest.update(weights.read_bytes())
    return digest.hexdigest()


def weights_digest(model: PreTrainedModel) -> str:
    """Digest the names and values of a model's weights."""
    digest = sha256()
    for name, weights in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def predict_frames(model: Classifier | str, frames: Sequence[Any]) -> Prediction:
    """Predict the label of one clip, given as pictures.

        >>> predict_frames("outputs/mine", [numpy.zeros((224, 224, 3), "uint8")] * 16).label

    Pictures of another size are resized and cropped in the middle, as `evaluation_views` does. Of more or fewer
    pictures than the model reads, the middle one of each equal part is taken, as of a video of so many frames.

    Args:
        model: A classifier, or what `load_predictor` loads; of several clips, load it once.
        frames: One picture or more, all of one size: NumPy arrays `(H, W, 3)`, uint8 RGB, or PIL images.

    Raises:
        InputError: If there is no picture, or one is of another kind or size than the first.
    """
    classifier = load_predictor(model) if isinstance(model, str) else model
    if not len(frames):
        raise InputError("frames: there are none; give one picture or more")
    count = classifier.clip.num_frames
    chosen = [(2 * index + 1) * len(frames) // (2 * count) for index in range(count)]
    pictures = {index: _picture(frames[index], index) for index in sorted(set(chosen))}
    first = pictures[chosen[0]].shape
    for index, picture in pictures.items():
        if picture.shape != first:
            raise InputError(
                f"frames: number {index} has shape {picture.shape}, not {first}; give pictures of one size"
            )
    # Channels-last memory, as decoders give it: resizing rounds a little otherwise in other layouts
    clip = torch.from_numpy(np.stack([pictures[index] for index in chosen])).permute(0, 3, 1, 2)
    logits = classifier.logits(torch.stack(crop_views(clip, classifier.clip.image_size, crops=1)))
    probabilities = dict(zip(classifier.labels, classifier.probabilities(logits).tolist(), strict=True))
    return Prediction(max(probabilities, key=probabilities.__getitem__), probabilities, logits[0].tolist())


def _picture(frame: Any, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    if hasattr(frame, "convert"):  # PIL's
        frame = frame.convert("RGB")
    picture = np.asarray(frame)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(
            f"frames: number {index} is {picture.dtype} of shape {picture.shape}; give uint8 (height, width, 3)"
        )
    return picture
