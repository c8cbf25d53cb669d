"""The mathematics of the methods: pure functions of tensors."""
