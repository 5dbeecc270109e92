BEGIN TRANSACTION;
CREATE TABLE definitions (
	hash TEXT NOT NULL, 
	workflow TEXT NOT NULL, 
	content TEXT NOT NULL, 
	PRIMARY KEY (hash)
);
INSERT INTO "definitions" VALUES('a26ccd1b2b4d738657d01e4788d3a088a208076de611f24d9105cb23ac1ac7e1','Greet','{"name": "Greet", "settings": {}, "steps": [{"apps": [], "disabled": false, "language": "python", "line_offset": 0, "name": "one", "notes": null, "props": {}, "source": "", "stores": [], "timeout_s": null, "uses": null}, {"apps": [], "disabled": false, "language": "python", "line_offset": 0, "name": "two", "notes": null, "props": {}, "source": "", "stores": [], "timeout_s": null, "uses": null}], "triggers": [{"auth": "none", "config": {}, "response": "default", "token_env": null, "type": "http"}], "variables": []}');
CREATE TABLE executors (
	id TEXT NOT NULL, 
	origin TEXT NOT NULL, 
	lease_until DOUBLE, 
	alive BOOLEAN NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "executors" VALUES('exec_00000000000000000001','serve',NULL,1);
CREATE TABLE limits (
	queue TEXT NOT NULL, 
	concurrency INTEGER, 
	per INTEGER, 
	period DOUBLE, 
	PRIMARY KEY (queue)
);
INSERT INTO "limits" VALUES('mail',2,NULL,NULL);
CREATE TABLE outbox (
	run_id TEXT NOT NULL, 
	path TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	message BLOB NOT NULL, 
	shown TEXT NOT NULL, 
	tries INTEGER NOT NULL, 
	due DOUBLE, 
	PRIMARY KEY (run_id, path, number, position)
);
INSERT INTO "outbox" VALUES('finished','one',1,0,X'7365616C6564','{"step":"one","kind":"http","outcome":"waiting","to":"0"}',0,1767225660.0);
CREATE TABLE runs (
	id TEXT NOT NULL, 
	trace_id TEXT NOT NULL, 
	workflow TEXT NOT NULL, 
	definition TEXT NOT NULL, 
	event TEXT NOT NULL, 
	external_user TEXT, 
	environment TEXT NOT NULL, 
	status TEXT NOT NULL, 
	owner TEXT, 
	fence INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	queue TEXT, 
	wake_at DOUBLE, 
	created DOUBLE NOT NULL, 
	ended DOUBLE, 
	output TEXT, 
	origin TEXT NOT NULL, 
	parent TEXT, 
	workflow_id TEXT, 
	dedupe_key TEXT, 
	request BLOB, 
	PRIMARY KEY (id)
);
INSERT INTO "runs" VALUES('finished','trace-finished','Greet','a26ccd1b2b4d738657d01e4788d3a088a208076de611f24d9105cb23ac1ac7e1','{"event":{"body":{"name":"finished"}},"context":{"id":"finished"}}','ada','development','success',NULL,1,1,NULL,NULL,1767225600.0,1767225600.0,'{"response":null,"error":null,"steps":{}}','serve',NULL,NULL,'first',NULL);
INSERT INTO "runs" VALUES('paused','trace-paused','Greet','a26ccd1b2b4d738657d01e4788d3a088a208076de611f24d9105cb23ac1ac7e1','{"event":{"body":{"name":"paused"}},"context":{"id":"paused"}}','ada','development','paused',NULL,1,1,NULL,4000000000.0,1767225600.0,NULL,NULL,'serve',NULL,NULL,NULL,X'72657175657374');
INSERT INTO "runs" VALUES('queued','trace-queued','Greet','a26ccd1b2b4d738657d01e4788d3a088a208076de611f24d9105cb23ac1ac7e1','{"event":{"body":{"name":"queued"}},"context":{"id":"queued"}}','ada','development','ready',NULL,0,1,'mail',NULL,1767225600.0,NULL,NULL,'serve',NULL,NULL,NULL,X'72657175657374');
INSERT INTO "runs" VALUES('running','trace-running','Greet','a26ccd1b2b4d738657d01e4788d3a088a208076de611f24d9105cb23ac1ac7e1','{"event":{"body":{"name":"running"}},"context":{"id":"running"}}','ada','development','running','exec_00000000000000000001',1,1,NULL,NULL,1767225600.0,NULL,NULL,'serve',NULL,NULL,NULL,X'72657175657374');
CREATE TABLE starts (
	queue TEXT NOT NULL, 
	at DOUBLE NOT NULL
);
CREATE TABLE steps (
	run_id TEXT NOT NULL, 
	path TEXT NOT NULL, 
	iteration INTEGER NOT NULL, 
	seq INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	fence INTEGER NOT NULL, 
	data TEXT NOT NULL, 
	at DOUBLE NOT NULL, 
	attempt INTEGER NOT NULL, 
	carry BLOB, 
	PRIMARY KEY (run_id, path, iteration)
)
 WITHOUT ROWID

;
INSERT INTO "steps" VALUES('finished','one',1,0,'one',1,'{"name":"one","status":"success","started_at":null,"duration_ms":null,"attempt":1,"path":"one","iteration":1,"exports":{"$return_value":"one"},"logs":[],"accounts":[],"requests":[],"error":null}',1767225600.0,1,NULL);
INSERT INTO "steps" VALUES('finished','two',1,1,'two',1,'{"name":"two","status":"success","started_at":null,"duration_ms":null,"attempt":1,"path":"two","iteration":1,"exports":{"$return_value":"two"},"logs":[],"accounts":[],"requests":[],"error":null}',1767225600.0,1,NULL);
INSERT INTO "steps" VALUES('running','one',1,0,'one',1,'{"name":"one","status":"success","started_at":null,"duration_ms":null,"attempt":1,"path":"one","iteration":1,"exports":{"$return_value":"one"},"logs":[],"accounts":[],"requests":[],"error":null}',1767225600.0,1,NULL);
CREATE TABLE waits (
	run_id TEXT NOT NULL, 
	path TEXT NOT NULL, 
	iteration INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	seq INTEGER NOT NULL, 
	kind TEXT NOT NULL, 
	wake_at DOUBLE, 
	data TEXT NOT NULL, 
	carry BLOB, 
	outcome TEXT, 
	payload BLOB, 
	at DOUBLE, 
	PRIMARY KEY (run_id, path, iteration, number)
)
 WITHOUT ROWID

;
INSERT INTO "waits" VALUES('paused','one',1,1,0,'suspend',4000000000.0,'{"name":"one","status":"success","started_at":null,"duration_ms":null,"attempt":1,"path":"one","iteration":1,"exports":{"$return_value":"before"},"logs":[],"accounts":[],"requests":[],"error":null}',X'6361727279',NULL,NULL,NULL);
CREATE INDEX definitions_workflow ON definitions (workflow);
CREATE INDEX outbox_due ON outbox (due) WHERE due is not null;
CREATE INDEX runs_ready ON runs (origin, queue, created) WHERE status = 'ready';
CREATE UNIQUE INDEX runs_dedupe ON runs (dedupe_key) WHERE dedupe_key is not null;
CREATE INDEX runs_owner ON runs (owner) WHERE status = 'running';
CREATE INDEX runs_list ON runs (workflow, created, id);
CREATE INDEX runs_due ON runs (wake_at) WHERE status = 'paused';
CREATE INDEX starts_window ON starts (queue, at);
COMMIT;
pragma user_version = 3;
