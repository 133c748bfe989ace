"""Recording a case: in this process, or in children whose crashes and hangs become verdicts."""
