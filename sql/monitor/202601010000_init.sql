-- The monitor's own store. Tables are the program's; users read the views `node` and `formation`
-- and the table `event`.

create schema pgautofailover;
comment on schema pgautofailover is 'State of pgvigil. The name is the one that users of pg_auto_failover know.';

create sequence pgautofailover.node_id_seq as bigint;
comment on sequence pgautofailover.node_id_seq is 'Ids of nodes. Never used twice: a node that lost its disk is a new node.';

create table pgautofailover.formations (
    formationid text primary key,
    kind        text not null default 'pgsql',
    settings    jsonb not null,
    created     timestamptz not null default now()
);
comment on table pgautofailover.formations is 'Formations, with the settings that their next groups start with.';

create table pgautofailover.groups (
    formationid text not null references pgautofailover.formations,
    groupid     integer not null,
    version     bigint not null,
    record      jsonb not null,
    changed     timestamptz not null default now(),
    primary key (formationid, groupid)
);
comment on table pgautofailover.groups is 'One durable record per group: epoch, plan, rules in flight, settings, members. Holds the replication password.';
comment on column pgautofailover.groups.version is 'Raised by each decision; a writer that does not know the present one is refused.';

create table pgautofailover.event (
    eventid       bigserial primary key,
    eventtime     timestamptz not null default now(),
    formationid   text not null,
    groupid       integer not null,
    nodeid        bigint,
    nodename      text,
    reportedstate text,
    goalstate     text,
    kind          text not null,
    epoch         bigint not null,
    cause         text,
    evidence      jsonb not null default '[]',
    phases        jsonb not null default '[]',
    description   text not null
);
comment on table pgautofailover.event is 'What happened: written with the decision that it tells of, in one transaction.';
create index event_by_group on pgautofailover.event (formationid, groupid, eventid);

create table pgautofailover.node_status (
    nodeid             bigint primary key,
    nodename           text not null,
    nodehost           text not null,
    nodeport           integer not null,
    groupid            integer not null,
    formationid        text not null,
    reportedstate      text not null,
    goalstate          text not null,
    health             integer not null,
    reportedlsn        pg_lsn,
    reportedtli        integer,
    statechangetime    timestamptz,
    candidatepriority  integer not null,
    replicationquorum  boolean not null
);
comment on table pgautofailover.node_status is 'How the nodes looked a moment ago, for people. The program never reads it.';

create view pgautofailover.node as
select nodeid, nodename, nodehost, nodeport, groupid, formationid, reportedstate, goalstate,
       health, reportedlsn, reportedtli, statechangetime, candidatepriority, replicationquorum
  from pgautofailover.node_status;

create view pgautofailover.formation as
select formationid, kind, (settings->>'number_sync_standbys')::integer as number_sync_standbys
  from pgautofailover.formations;

-- Roles belong to the server, not to the database: a restored dump may meet one.
do $$
begin
    if not exists (select from pg_roles where rolname = 'autoctl_node') then
        create role autoctl_node;
    end if;
end
$$;
alter role autoctl_node login nosuperuser nocreatedb nocreaterole noreplication connection limit 20;
alter role autoctl_node set default_transaction_read_only = on;
alter role autoctl_node set statement_timeout = '10s';
alter role autoctl_node set idle_in_transaction_session_timeout = '60s';

revoke create on schema public from public;
grant usage on schema pgautofailover to autoctl_node;
grant select on pgautofailover.node, pgautofailover.formation, pgautofailover.event to autoctl_node;
