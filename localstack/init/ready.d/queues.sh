#!/bin/sh
# Makes the three queues as `dawdle::backend::sqs::create_queues` does.
set -eu
name=${QUEUE:-dawdle}

create() {
    awslocal sqs create-queue --queue-name "$1" --attributes "$2" --query QueueUrl --output text
}

dead_url=$(create "$name-dead" '{"MessageRetentionPeriod":"1209600"}')
dead_arn=$(awslocal sqs get-queue-attributes --queue-url "$dead_url" --attribute-names QueueArn \
    --query Attributes.QueueArn --output text)
create "$name-delay" '{"VisibilityTimeout":"60","MessageRetentionPeriod":"1209600"}'
create "$name" '{"VisibilityTimeout":"60","MessageRetentionPeriod":"1209600","RedrivePolicy":"{\"deadLetterTargetArn\":\"'"$dead_arn"'\",\"maxReceiveCount\":\"100\"}"}'
