"""Where the API server is and who asks, as kubectl finds it: kubeconfigs, the pod's account, plugins and proxies.

No Python library follows kubectl's rules here: the official client takes the last current-context of several files
where kubectl takes the first, knows no impersonation, and only logs what a credential plugin fails of.
"""
