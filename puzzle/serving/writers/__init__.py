"""Writers of the checkpoint formats that serving engines load."""
