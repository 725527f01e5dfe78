"""The built-in gateway. It knows nothing of the reconciler and of the resource kinds."""
