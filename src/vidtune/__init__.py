"""vidtune: fine-tune, score and publish video-classification models with the Hugging Face Trainer."""

from vidtune.compat import mend_imports
from vidtune.models.registration import register_when_imported

mend_imports()
register_when_imported()
