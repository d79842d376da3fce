-- When a monitor last used this store. A store that was put back from a copy tells its age by it.

create table pgautofailover.alive (
    one boolean primary key default true check (one),
    at  timestamptz not null
);
comment on table pgautofailover.alive is 'The last sign of life of a monitor. A store that nobody used for long may be an old copy: the monitor then asks the keepers before it decides.';
