"""The machine: files, processes, devices, memory."""
