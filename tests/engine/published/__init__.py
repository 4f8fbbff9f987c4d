import engine.models  # noqa: F401 - mends torchvision before a test module imports diffusers
