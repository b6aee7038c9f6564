import time
def test_x(new_stage, start_worker):
    stage=new_stage(); w=start_worker(stage.settings()).wait_ready()
    for i in range(5):
        m=w.metrics(); print(i, {n:m.total(n,topic=stage.topic) for n in ("unassigned_partitions","topic_assigned_partitions","topic_partitions","topic_missing","retention_left_seconds","group_lag_records")}, m.total("group_members")); time.sleep(8)
