"""The kind `gateway-config`: the declared part of openclaw.json, field by field, and the word to a running gateway."""
