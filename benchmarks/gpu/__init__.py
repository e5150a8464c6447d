"""What has to be seen on a GPU, in parts that can be stopped and taken up again."""
