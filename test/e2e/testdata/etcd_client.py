"""Drives an agent with Debian's python3-etcd as an application would: etcd_client.py HOST."""
import sys
import threading
import time

import etcd

HOST = sys.argv[1]


def client(**kw):
    return etcd.Client(host=HOST, port=2379, allow_reconnect=False, **kw)


def refused(error, f, *a, **kw):
    try:
        r = f(*a, **kw)
    except error:
        return
    raise AssertionError("%s%s gave %s, want %s" % (f.__name__, a, r, error.__name__))


def until(what, ok, limit=15):
    end = time.time() + limit
    while not ok():
        assert time.time() < end, "not within %d s: %s" % (limit, what)
        time.sleep(0.05)


c = client()

# The cluster as the module sees it.
assert c.version.startswith("3.4."), c.version
assert len(c.machines) == 3, c.machines
assert len(c.members) == 3, c.members
assert c.leader["clientURLs"], c.leader
assert c.stats["state"] in ("StateLeader", "StateFollower"), c.stats
assert "setsSuccess" in c.store_stats

# Keys with every condition.
r = c.write("/py/key", "one")
assert r.action == "set" and r.value == "one" and r.newKey, r
assert c.read("/py/key").value == "one"
assert c.get("/py/key").value == "one"
assert c.read("/py/key", quorum=True).value == "one"
refused(etcd.EtcdKeyNotFound, c.read, "/py/none")
refused(etcd.EtcdAlreadyExist, c.write, "/py/key", "two", prevExist=False)
refused(etcd.EtcdKeyNotFound, c.write, "/py/none", "two", prevExist=True)
refused(etcd.EtcdCompareFailed, c.write, "/py/key", "two", prevValue="no")
refused(etcd.EtcdCompareFailed, c.write, "/py/key", "two", prevIndex=r.modifiedIndex - 1)
assert c.test_and_set("/py/key", "two", "one").action == "compareAndSwap"
r = c.read("/py/key")
r.value = "three"
assert c.update(r).value == "three"
refused(etcd.EtcdNotDir, c.read, "/py/key/below")
refused(etcd.EtcdNotFile, c.write, "/py", "v")
refused(etcd.EtcdRootReadOnly, c.write, "/", "v")
assert "/py/key" in c and "/py/none" not in c
assert c.write("/py/ä", "ü <&> \u2028").value == "ü <&> \u2028"
assert c.read("/py/ä").value == "ü <&> \u2028"
assert c.pop("/py/key").value == "three"
refused(etcd.EtcdKeyNotFound, c.delete, "/py/key")

# Directories, in-order keys, lifetimes and refresh.
c.write("/py/dir", None, dir=True, ttl=60)
keys = [c.write("/py/dir/queue", "job%d" % i, append=True).key for i in range(5)]
assert keys == sorted(keys), keys
listed = [n.key for n in c.read("/py/dir/queue", sorted=True).children]
assert listed == keys, (listed, keys)
assert len(list(c.read("/py", recursive=True).leaves)) >= 5
refused(etcd.EtcdDirNotEmpty, c.delete, "/py/dir", dir=True)
refused(etcd.EtcdNotFile, c.write, "/py/dir", None, dir=True)
c.write("/py/short", "x", ttl=2)
r = c.refresh("/py/short", ttl=60)
assert r.ttl == 60, r
c.write("/py/gone", "x", ttl=1)
assert c.read("/py/gone").ttl == 1
until("a key of one second goes", lambda: "/py/gone" not in c)
assert c.read("/py/short").value == "x"
c.write("/py/wdir", None, dir=True, ttl=1)
c.write("/py/wdir/child", "x")
until("a directory of one second goes with its child", lambda: "/py/wdir/child" not in c)
c.delete("/py/dir", recursive=True, dir=True)

# Watches: one change, from an index, for ever, and a history that is honest.
woken = []
t = threading.Thread(target=lambda: woken.append(client().watch("/py/w", timeout=20)))
t.start()
until("the watch is there", lambda: c.store_stats is not None)
n = 0
while t.is_alive():
    n += 1
    c.write("/py/w", "v%d" % n)
    t.join(0.05)
assert woken[0].action == "set" and woken[0].value.startswith("v"), woken
start = c.write("/py/seq", "start").modifiedIndex
assert client().watch("/py/seq", index=start, timeout=5).value == "start"
for i in range(20):
    c.write("/py/seq", str(i))
got = []
for ev in client().eternal_watch("/py/seq", index=start + 1):
    got.append(ev.value)
    if len(got) == 20:
        break
assert got == [str(i) for i in range(20)], got
refused(etcd.EtcdWatchTimedOut, client().watch, "/py/quiet", timeout=1)
got = []
for ev in client().eternal_watch("/py", index=start + 1, recursive=True):
    got.append(ev.key)
    if len(got) == 20:
        break
assert set(got) == {"/py/seq"}, got

# Locks: one holder at a time, in the order of asking; a holder that dies gives way.
held, worst, order = [0], [0], []


def work(name):
    lock = etcd.Lock(client(), "lock")
    for _ in range(3):
        lock.acquire(blocking=True, lock_ttl=20, timeout=30)
        assert lock.is_acquired
        held[0] += 1
        worst[0] = max(worst[0], held[0])
        order.append(name)
        time.sleep(0.02)
        held[0] -= 1
        lock.release()


threads = [threading.Thread(target=work, args=("t%d" % i,)) for i in range(4)]
for t in threads:
    t.start()
for t in threads:
    t.join(60)
    assert not t.is_alive(), "a lock is never given"
assert worst[0] == 1 and len(order) == 12, (worst, order)
with etcd.Lock(client(), "with") as lock:
    assert lock.is_acquired
dead = etcd.Lock(client(), "dead")
assert dead.acquire(lock_ttl=2)
heir = etcd.Lock(client(), "dead")
assert heir.acquire(blocking=True, lock_ttl=20, timeout=20)
heir.release()

# An election by the recipe everybody uses: create with a lifetime, refresh it, watch it go.
assert c.write("/py/leader", "a", prevExist=False, ttl=2).newKey
refused(etcd.EtcdAlreadyExist, c.write, "/py/leader", "b", prevExist=False, ttl=2)
for _ in range(3):
    time.sleep(0.5)
    c.write("/py/leader", "a", prevValue="a", ttl=2)
ev = client().watch("/py/leader", index=c.read("/py/leader").modifiedIndex + 1, timeout=10)
assert ev.action == "expire", ev
assert c.write("/py/leader", "b", prevExist=False, ttl=2).value == "b"
print("ok")
