"""What it costs: from named assumptions to machines, bytes and money a month. Pure: values in, values out."""
