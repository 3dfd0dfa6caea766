"""Magic Hour's pages in Airflow's UI: a tab on every task instance, and one page for all clips."""
