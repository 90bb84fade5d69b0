-- The running stage saves a checkpoint and stops; no other starts.
obj.spec.suspend = true
return obj
