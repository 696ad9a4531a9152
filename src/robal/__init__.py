"""robal: robust active learning. Which images to label so that the model stands up to adversarial examples."""

__version__ = "0.1.0.dev0"
