"""The daemon that keeps bytes: S3's objects, and images."""
