-- Runs once, on an empty data directory: two users that own one database each and see no other.
-- The superuser is left without a password: it can only be used inside this container.
\getenv variet_password POSTGRES_PASSWORD
\getenv langfuse_password LANGFUSE_POSTGRES_PASSWORD

CREATE ROLE variet LOGIN PASSWORD :'variet_password';
CREATE DATABASE variet OWNER variet ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE variet FROM PUBLIC;

CREATE ROLE langfuse LOGIN PASSWORD :'langfuse_password';
CREATE DATABASE langfuse OWNER langfuse ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE langfuse FROM PUBLIC;

ALTER ROLE postgres PASSWORD NULL;
