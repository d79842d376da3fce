-- What the application may do. The role itself is made by the bootstrap, with its password.
-- Runs in one transaction, with psql's variable app_user; a second run changes nothing.

grant usage on schema public to :"app_user";
grant select, insert, update, delete on all tables in schema public to :"app_user";
grant usage, select on all sequences in schema public to :"app_user";
alter default privileges in schema public grant select, insert, update, delete on tables to :"app_user";
alter default privileges in schema public grant usage, select on sequences to :"app_user";
