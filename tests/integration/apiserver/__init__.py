"""Against a real kube-apiserver and etcd."""
