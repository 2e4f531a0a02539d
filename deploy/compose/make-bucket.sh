#!/bin/sh
# In the mc container: the bucket `models`, and the user `hubgate` who may use it.
set -eu
until mc alias set store http://minio:9000 "$MINIO_ROOT_USER" "$MINIO_ROOT_PASSWORD"; do sleep 1; done
mc mb --ignore-existing store/models
mc admin policy create store hubgate "$(dirname "$0")/hubgate-bucket-policy.json"
mc admin user add store hubgate "$HUBGATE_S3_SECRET_KEY"
mc admin policy attach store hubgate --user hubgate || true # says so where it is attached already
