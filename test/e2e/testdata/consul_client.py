"""Drives an agent with Debian's python3-consul as an application would: consul_client.py HOST.

The module asks for heartbeats and deregistrations with GET, which Consul has refused since 1.0; a GET must not change
anything here either, so those go through its http object.
"""
import sys
import threading
import time

import consul

c = consul.Consul(host=sys.argv[1], port=8500)


def put(path):
    return c.http.put(lambda r: r.code == 200, path)



def until(what, ok, limit=15):
    end = time.time() + limit
    while not ok():
        assert time.time() < end, "not within %d s: %s" % (limit, what)
        time.sleep(0.05)


# Agent, health and catalog.
assert c.agent.self()["Config"]["Datacenter"] == "dc1"
assert c.agent.service.register("py", service_id="py-1", port=7001, tags=["a", "b"], check=consul.Check.ttl("30s"))
assert "py-1" in c.agent.services()
assert put("/v1/agent/check/pass/service:py-1")
until("the instance passes", lambda: len(c.health.service("py", passing=True)[1]) == 1)
index, nodes = c.health.service("py", passing=True, tag="a")
assert nodes[0]["Service"]["Port"] == 7001 and nodes[0]["Service"]["Tags"] == ["a", "b"], nodes
assert "py" in c.catalog.services()[1]
assert c.catalog.service("py")[1][0]["ServiceID"] == "py-1"
assert "dc1" in c.catalog.datacenters()

# A blocking query wakes with the change.
woken = []
waiter = threading.Thread(target=lambda: woken.append(c.health.service("py", passing=True, index=index, wait="20s")))
waiter.start()
assert put("/v1/agent/check/fail/service:py-1")
waiter.join(15)
assert woken and woken[0][1] == [], woken

# Maintenance.
assert put("/v1/agent/check/pass/service:py-1")
assert c.agent.service.maintenance("py-1", "true", reason="upgrade")
until("maintenance hides the instance", lambda: c.health.service("py", passing=True)[1] == [])
assert c.agent.service.maintenance("py-1", "false")
until("the instance is back", lambda: len(c.health.service("py", passing=True)[1]) == 1)

# Keys.
assert c.kv.put("py/a", "1", flags=7)
index, pair = c.kv.get("py/a")
assert pair["Value"] == b"1" and pair["Flags"] == 7, pair
assert c.kv.put("py/a", "2", cas=pair["ModifyIndex"])
assert not c.kv.put("py/a", "3", cas=pair["ModifyIndex"])
assert c.kv.put("py/b/c", "x")
assert c.kv.get("py/", keys=True)[1] == ["py/a", "py/b/c"]
assert c.kv.get("py/", keys=True, separator="/")[1] == ["py/a", "py/b/"]
assert [p["Key"] for p in c.kv.get("py/", recurse=True)[1]] == ["py/a", "py/b/c"]
assert c.kv.get("py/none")[1] is None

# Sessions and locks.
one, two = c.session.create(name="one", ttl=10, lock_delay=0), c.session.create(name="two", ttl=10, lock_delay=0)
assert c.kv.put("py/lock", "one", acquire=one)
assert not c.kv.put("py/lock", "two", acquire=two)
assert c.kv.get("py/lock")[1]["Session"] == one
assert c.session.renew(one)["ID"] == one
assert c.session.destroy(one)
assert c.kv.put("py/lock", "two", acquire=two)
assert len(c.session.list()[1]) == 1
assert c.session.destroy(two)

# Events. (The module wants an index from event/fire, which Consul does not give.)
assert put("/v1/event/fire/deploy")
until("the event arrives", lambda: any(e["Name"] == "deploy" for e in c.event.list("deploy")[1]))

# Prepared queries.
made = c.query.create("py", name="find-py", onlypassing=True)
assert len(c.query.execute("find-py")["Nodes"]) == 1
assert c.query.delete(made["ID"])

assert c.kv.delete("py/", recurse=True)
assert put("/v1/agent/service/deregister/py-1")
until("the service is gone", lambda: c.health.service("py")[1] == [])
assert c.status.leader() and len(c.status.peers()) == 3
print("ok")
