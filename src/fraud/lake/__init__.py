"""The datasets: names, partitions, reading and publishing, reports and job records."""
