"""FFN fusion: neighbouring layers without attention computed in parallel as one."""
