"""What samples a policy's responses: our own forwards, or vLLM."""
