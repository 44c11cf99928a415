"""What people look at before they type: the page, the notebook, the weights of the demo."""
