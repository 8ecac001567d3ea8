"""Where videos come from and how a clip is made of them."""
