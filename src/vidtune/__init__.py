"""vidtune: fine-tune, score and publish video-classification models with the Hugging Face Trainer."""

from vidtune.compat import mend_imports

mend_imports()
