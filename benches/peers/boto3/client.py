"""boto3 on SQS: batches of ten from a pool of threads, as a Python program would use it."""

import json
import resource
import sys
import threading
import time

import boto3
import botocore.config


def main():
    task = json.loads(sys.argv[1])
    threads = task["at_once"]
    # A client is safe to share between threads; its connections are not to be fewer than those.
    config = botocore.config.Config(max_pool_connections=threads)
    sqs = boto3.client("sqs", endpoint_url=task["place"], config=config)
    queue = f"{task['place']}/000000000000/bench"
    sqs.get_queue_attributes(QueueUrl=queue)
    print("ready", flush=True)
    sys.stdin.readline()
    wall, cpu = time.monotonic(), time.process_time()
    if task["phase"] == "produce":
        produce(sqs, queue, task)
    else:
        for _ in range(threads):
            threading.Thread(target=consume, args=(sqs, queue), daemon=True).start()
        sys.stdin.readline()
    measured = {
        "wall_s": time.monotonic() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    print(json.dumps(measured), flush=True)


def produce(sqs, queue, task):
    batches = iter(range(task["events"] // 10))
    lock = threading.Lock()

    def send():
        while True:
            with lock:
                if next(batches, None) is None:
                    return
            entries = [{"Id": str(id), "MessageBody": task["body"]} for id in range(10)]
            answer = sqs.send_message_batch(QueueUrl=queue, Entries=entries)
            assert not answer.get("Failed"), answer

    senders = [threading.Thread(target=send) for _ in range(task["at_once"])]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()


def consume(sqs, queue):
    while True:
        answer = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=20)
        entries = [
            {"Id": str(id), "ReceiptHandle": message["ReceiptHandle"]}
            for id, message in enumerate(answer.get("Messages", []))
        ]
        if entries:
            answer = sqs.delete_message_batch(QueueUrl=queue, Entries=entries)
            assert not answer.get("Failed"), answer


main()
