"""An HTTP server for a bundle or an export: batches of images from many clients, run in processes that may die."""
