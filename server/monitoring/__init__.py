"""What operators watch: the dashboard and the alert rules of Grafana and Prometheus, and what is bad in a figure."""
