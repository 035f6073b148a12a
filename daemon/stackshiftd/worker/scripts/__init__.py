"""Shell jobs: executable files in the folders of jobs, of which each is the handler of a job."""
