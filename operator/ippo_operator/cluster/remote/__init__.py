"""What `ippo` asks of an API server, as the user of a kubeconfig."""
