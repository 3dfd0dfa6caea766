"""Where bytes come from and go to: `source` reads images, `landing` brings clips home, `mp4` checks them."""
