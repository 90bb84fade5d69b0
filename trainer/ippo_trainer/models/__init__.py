"""Language models: loading and saving, sampling, and forwards that share prompts between responses."""
