"""Magic Hour's pages in Airflow's UI: a tab of each task instance, and a page of all videos."""
