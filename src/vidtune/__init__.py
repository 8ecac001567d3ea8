"""vidtune: fine-tune, score and publish video-classification models with the Hugging Face Trainer."""
