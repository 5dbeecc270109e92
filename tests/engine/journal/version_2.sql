BEGIN TRANSACTION;
CREATE TABLE deployments (
	workflow TEXT NOT NULL, 
	version INTEGER NOT NULL, 
	definition TEXT NOT NULL, 
	PRIMARY KEY (workflow, version)
);
INSERT INTO "deployments" VALUES('Greet',1,'{"name": "Greet", "settings": {}, "steps": [{"apps": [], "disabled": false, "language": "python", "line_offset": 0, "name": "one", "notes": null, "props": {}, "source": "", "stores": [], "timeout_s": null, "uses": null}, {"apps": [], "disabled": false, "language": "python", "line_offset": 0, "name": "two", "notes": null, "props": {}, "source": "", "stores": [], "timeout_s": null, "uses": null}], "triggers": [{"auth": "none", "config": {}, "response": "default", "token_env": null, "type": "http"}], "variables": []}');
INSERT INTO "deployments" VALUES('Greet',2,'{"name": "Greet", "settings": {"memory": 512}, "steps": [{"apps": [], "disabled": false, "language": "python", "line_offset": 0, "name": "one", "notes": null, "props": {}, "source": "", "stores": [], "timeout_s": null, "uses": null}, {"apps": [], "disabled": false, "language": "python", "line_offset": 0, "name": "two", "notes": null, "props": {}, "source": "", "stores": [], "timeout_s": null, "uses": null}], "triggers": [{"auth": "none", "config": {}, "response": "default", "token_env": null, "type": "http"}], "variables": []}');
INSERT INTO "deployments" VALUES('Other',1,'{"name": "Other", "settings": {}, "steps": [{"apps": [], "disabled": false, "language": "python", "line_offset": 0, "name": "one", "notes": null, "props": {}, "source": "", "stores": [], "timeout_s": null, "uses": null}, {"apps": [], "disabled": false, "language": "python", "line_offset": 0, "name": "two", "notes": null, "props": {}, "source": "", "stores": [], "timeout_s": null, "uses": null}], "triggers": [{"auth": "none", "config": {}, "response": "default", "token_env": null, "type": "http"}], "variables": []}');
CREATE TABLE executors (
	id TEXT NOT NULL, 
	slot TEXT NOT NULL, 
	lease_until DOUBLE NOT NULL, 
	alive BOOLEAN NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "executors" VALUES('exec_00000000000000000001','host:1',1767225610.0,1);
CREATE TABLE limits (
	queue TEXT NOT NULL, 
	concurrency INTEGER, 
	per INTEGER, 
	period DOUBLE, 
	PRIMARY KEY (queue)
);
CREATE TABLE runs (
	id TEXT NOT NULL, 
	trace_id TEXT NOT NULL, 
	workflow TEXT NOT NULL, 
	version INTEGER NOT NULL, 
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
	PRIMARY KEY (id)
);
INSERT INTO "runs" VALUES('finished','trace-finished','Greet',1,'{"event":{"body":{"name":"finished"}},"context":{"id":"finished"}}','ada','development','success',NULL,1,1,NULL,NULL,1767225600.0,1767225600.0,'{"response":null,"error":null,"steps":{}}');
INSERT INTO "runs" VALUES('changed','trace-changed','Greet',2,'{"event":{"body":{"name":"changed"}},"context":{"id":"changed"}}','ada','development','success',NULL,1,1,NULL,NULL,1767225600.0,1767225600.0,'{"response":null,"error":null,"steps":{}}');
INSERT INTO "runs" VALUES('other','trace-other','Other',1,'{"event":{"body":{"name":"other"}},"context":{"id":"other"}}','ada','development','success',NULL,1,1,NULL,NULL,1767225600.0,1767225600.0,'{"response":null,"error":null,"steps":{}}');
INSERT INTO "runs" VALUES('undeployed','trace-undeployed','Greet',9,'{"event":{"body":{"name":"undeployed"}},"context":{"id":"undeployed"}}','ada','development','success',NULL,1,1,NULL,NULL,1767225600.0,1767225600.0,'{"response":null,"error":null,"steps":{}}');
INSERT INTO "runs" VALUES('sealed','trace-sealed','Greet',1,'{"sealed":"c2VhbGVk","context":{"id":"sealed"}}','ada','development','error',NULL,1,1,NULL,NULL,1767225600.0,1767225600.0,'{"response":null,"error":null,"steps":{}}');
INSERT INTO "runs" VALUES('running','trace-running','Greet',1,'{"event":{"body":{"name":"running"}},"context":{"id":"running"}}','ada','development','running','exec_00000000000000000001',1,1,NULL,NULL,1767225600.0,NULL,NULL);
INSERT INTO "runs" VALUES('paused','trace-paused','Greet',1,'{"event":{"body":{"name":"paused"}},"context":{"id":"paused"}}','ada','development','paused',NULL,1,1,NULL,4000000000.0,1767225600.0,NULL,NULL);
INSERT INTO "runs" VALUES('parked','trace-parked','Greet',1,'{"event":{"body":{"name":"parked"}},"context":{"id":"parked"}}','ada','development','paused',NULL,1,1,NULL,NULL,1767225600.0,NULL,NULL);
INSERT INTO "runs" VALUES('queued','trace-queued','Greet',1,'{"event":{"body":{"name":"queued"}},"context":{"id":"queued"}}','ada','development','ready',NULL,0,1,'mail',NULL,1767225600.0,NULL,NULL);
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
	PRIMARY KEY (run_id, path, iteration)
)
 WITHOUT ROWID

;
INSERT INTO "steps" VALUES('changed','one',1,0,'one',1,'{"name":"one","status":"success","started_at":null,"duration_ms":null,"attempt":1,"path":"one","iteration":1,"exports":{"$return_value":"one"},"logs":[],"accounts":[],"requests":[],"error":null}',1767225600.0);
INSERT INTO "steps" VALUES('changed','two',1,1,'two',1,'{"name":"two","status":"success","started_at":null,"duration_ms":null,"attempt":1,"path":"two","iteration":1,"exports":{"$return_value":"two"},"logs":[],"accounts":[],"requests":[],"error":null}',1767225600.0);
INSERT INTO "steps" VALUES('finished','one',1,0,'one',1,'{"name":"one","status":"success","started_at":null,"duration_ms":null,"attempt":1,"path":"one","iteration":1,"exports":{"$return_value":"one"},"logs":[],"accounts":[],"requests":[],"error":null}',1767225600.0);
INSERT INTO "steps" VALUES('finished','two',1,1,'two',1,'{"name":"two","status":"success","started_at":null,"duration_ms":null,"attempt":1,"path":"two","iteration":1,"exports":{"$return_value":"two"},"logs":[],"accounts":[],"requests":[],"error":null}',1767225600.0);
INSERT INTO "steps" VALUES('other','one',1,0,'one',1,'{"name":"one","status":"success","started_at":null,"duration_ms":null,"attempt":1,"path":"one","iteration":1,"exports":{"$return_value":"one"},"logs":[],"accounts":[],"requests":[],"error":null}',1767225600.0);
INSERT INTO "steps" VALUES('other','two',1,1,'two',1,'{"name":"two","status":"success","started_at":null,"duration_ms":null,"attempt":1,"path":"two","iteration":1,"exports":{"$return_value":"two"},"logs":[],"accounts":[],"requests":[],"error":null}',1767225600.0);
INSERT INTO "steps" VALUES('paused','one',1,0,'one',1,'{"name":"one","status":"success","started_at":null,"duration_ms":null,"attempt":1,"path":"one","iteration":1,"exports":{"$return_value":"one"},"logs":[],"accounts":[],"requests":[],"error":null}',1767225600.0);
INSERT INTO "steps" VALUES('running','one',1,0,'one',1,'{"name":"one","status":"success","started_at":null,"duration_ms":null,"attempt":1,"path":"one","iteration":1,"exports":{"$return_value":"one"},"logs":[],"accounts":[],"requests":[],"error":null}',1767225600.0);
INSERT INTO "steps" VALUES('undeployed','one',1,0,'one',1,'{"name":"one","status":"success","started_at":null,"duration_ms":null,"attempt":1,"path":"one","iteration":1,"exports":{"$return_value":"one"},"logs":[],"accounts":[],"requests":[],"error":null}',1767225600.0);
INSERT INTO "steps" VALUES('undeployed','two',1,1,'two',1,'{"name":"two","status":"success","started_at":null,"duration_ms":null,"attempt":1,"path":"two","iteration":1,"exports":{"$return_value":"two"},"logs":[],"accounts":[],"requests":[],"error":null}',1767225600.0);
CREATE TABLE waits (
	run_id TEXT NOT NULL, 
	path TEXT NOT NULL, 
	iteration INTEGER NOT NULL, 
	fence INTEGER NOT NULL, 
	seq INTEGER NOT NULL, 
	token_hash TEXT, 
	outcome TEXT, 
	payload TEXT, 
	at DOUBLE, 
	PRIMARY KEY (run_id, path, iteration)
)
 WITHOUT ROWID

;
INSERT INTO "waits" VALUES('parked','one',1,1,0,'abc',NULL,NULL,NULL);
INSERT INTO "waits" VALUES('paused','one',1,1,0,NULL,NULL,NULL,NULL);
CREATE INDEX runs_due ON runs (wake_at) WHERE status = 'paused';
CREATE INDEX runs_list ON runs (workflow, created, id);
CREATE INDEX runs_owner ON runs (owner) WHERE status = 'running';
CREATE INDEX runs_ready ON runs (queue, created) WHERE status = 'ready';
CREATE INDEX starts_window ON starts (queue, at);
COMMIT;
pragma user_version = 2;
