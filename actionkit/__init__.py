"""Video action recognition: components as plugins, composed by YAML recipes."""

__version__ = "0.1.0"
