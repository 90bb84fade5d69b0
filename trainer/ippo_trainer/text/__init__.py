"""From conversations to tokens and back."""
