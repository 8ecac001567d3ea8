"""The training transform of Hugging Face's guide to video classification, for `train_transform` in guide.yaml.

The trainer normalises, so the guide's `Normalize` and `UniformTemporalSubsample` have no place here.
"""

from pytorchvideo.transforms import RandomShortSideScale
from torchvision.transforms import Compose, Lambda, RandomCrop, RandomHorizontalFlip

train = Compose(
    [Lambda(lambda clip: clip / 255), RandomShortSideScale(256, 320), RandomCrop(224), RandomHorizontalFlip(0.5)]
)
