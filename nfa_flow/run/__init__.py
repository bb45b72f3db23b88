"""What every run shares, flow and descent alike: observing, driving, suspending, and the files they leave."""
