"""What `ippo` asks of an API server, as the user of a kubeconfig: light, so that a command starts at once.

It takes nothing but the standard library and YAML: the official client alone needs longer to import than a user waits.
"""
