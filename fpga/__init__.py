"""From the design to a part: flow (synthesis to bitstream), boards, estimate (cost without synthesis), library."""
