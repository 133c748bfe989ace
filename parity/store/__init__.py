"""Recordings on disk: Arrow files whose digest is verified before anything else reads them."""
